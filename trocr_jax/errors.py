"""Every error that trocr_jax raises on purpose. The message names the file, key or option and says what to do."""


class TrOCRError(Exception):
    """Base of all errors of this library."""


class ConfigError(TrOCRError, ValueError):
    """A configuration holds a value, or names an architecture, that cannot be used."""


class CheckpointError(TrOCRError, ValueError):
    """A model folder is missing, damaged, unsafe, or does not hold the weights its configuration promises."""


class ImageError(TrOCRError, ValueError):
    """An input cannot be read as an image."""


class TokenizerError(TrOCRError, ValueError):
    """A model folder holds no tokenizer that can be loaded."""


class DecodeError(TrOCRError, ValueError):
    """A decoding option is out of range or does not fit the model."""


class OutputError(TrOCRError, OSError):
    """A result cannot be written."""


class DataError(TrOCRError, ValueError):
    """A data set is missing, incomplete, damaged, or not the one that a run was started with."""


class ImageLimitError(ImageError):
    """An image is larger than a limit on pixels or memory allows."""


class SourceError(TrOCRError, OSError):
    """The inputs of a job cannot be listed, or have gone."""


class JobError(TrOCRError, ValueError):
    """A job folder cannot be used as asked."""
