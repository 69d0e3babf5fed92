"""The errors this package raises. All derive from RuntimeError, which no framework swallows."""


class RefragError(RuntimeError):
    """Base of all errors raised here; the message says what came, what was expected, what to do."""


class InputError(RefragError):
    """An argument that cannot be used."""


class CheckpointError(RefragError):
    """A model folder or hub name that cannot be loaded or written."""


class StoreError(RefragError):
    """A store that cannot be opened, read or written."""


class PromptTooLongError(RefragError):
    """A prompt that takes more positions than the decoder has."""


class MissingExtraError(RefragError, ImportError):
    """Something needs an optional dependency that is not installed."""


class TrainingError(RefragError):
    """A training run that cannot go on; its last state is kept."""
