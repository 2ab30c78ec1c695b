"""The version of the installed package, as journals, files and MLflow record it."""


def code_version() -> str:
    """Version of the installed package; `unknown` in a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes time, and few commands ask

    try:
        return version("nightrecs")
    except PackageNotFoundError:
        return "unknown"
