"""What is peculiar to graphs: features of their structure, operators on them, metrics and drawings."""
