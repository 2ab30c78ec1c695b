"""What runs and how it is started: the line of a night, the command line, and Prefect."""
