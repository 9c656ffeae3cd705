"""Networks and assets that are known to convert, with the thresholds found for them."""

if __name__ != "deltafx.models_zoo":
    raise ImportError(
        f"this folder is the package deltafx.models_zoo, and was imported as {__name__!r}: "
        "install deltafx (`pip install -e .`) and import deltafx.models_zoo"
    )
