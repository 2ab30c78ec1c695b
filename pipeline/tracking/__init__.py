"""MLflow: nights as runs, the registry, clean-up and the registered model. The only importer of mlflow."""

__all__ = [
    "allowed_requests",
    "champion_pyfunc",
    "cleanup",
    "client",
    "confined_artifacts",
    "logged_model",
    "naming",
    "nights",
    "registry",
    "request_gate",
    "server",
    "server_app",
    "store_file",
]
