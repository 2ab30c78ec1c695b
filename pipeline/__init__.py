"""The library: data stages, models, ranking, evaluation, publishing."""
