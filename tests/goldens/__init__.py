"""What others build on, as files: `behaviour/` stays as it is, `texts/` may be rewritten.

`behaviour/*.json` hold the names that scripts, queries, dashboards and old homes rely on: commands and options, keys
of JSON output, tables and columns, settings, lake keys, journal files, titles of stages, names in MLflow and Prefect.
Something may be added to them, nothing may change or go. `texts/*.txt` hold what people read: `--help`, comments of
tables and columns, meanings of settings.

`python -m tests.goldens --write` adds what is new to `behaviour/` and rewrites `texts/`; the diff is for review. It
refuses to change or remove a line of `behaviour/`: who means to break something deletes the line first, by hand.
"""
