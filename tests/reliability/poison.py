"""Data with a sample that must not be learned from."""


class Poisoned:
    """Data of which one sample is not a number, or huge, at first sight or for ever."""

    def __init__(self, data, sample, value, times=10**9):
        self.data, self.sample, self.value, self.times = data, sample, value, times
        self.shape = data.shape

    def __len__(self):
        return len(self.data)

    def batch(self, index):
        batch = self.data.batch(index)
        met = index == self.sample
        if met.any() and self.times > 0:
            self.times -= 1
            batch.x[met] = self.value
        return batch


class Torn:
    """Data of which one sample cannot be read, at first or for ever."""

    def __init__(self, data, sample, times=10**9):
        self.data, self.sample, self.times = data, sample, times
        self.shape = data.shape

    def __len__(self):
        return len(self.data)

    def batch(self, index):
        if (index == self.sample).any() and self.times > 0:
            raise EOFError(f"sample {self.sample} ends too soon")
        return self.data.batch(index)
