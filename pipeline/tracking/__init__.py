"""MLflow: nights as runs, the registry, clean-up and the registered model. The only importer of mlflow."""

__all__ = [
    "champion_pyfunc",
    "cleanup",
    "client",
    "logged_model",
    "naming",
    "nights",
    "registry",
    "server",
    "server_app",
    "store_file",
]
