"""The Palmer penguins survey: three islands, each with its own device, that are offline most of the time."""
