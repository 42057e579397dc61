"""Text (extra `text`): tokenizers, encoders, and what prompts become for each family of networks."""
