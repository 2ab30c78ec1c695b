"""The stages of a night, a module each, in the order of `LINE`."""

from pipeline.core.stage_call import StageName

DATA_STAGES = (StageName.INGEST, StageName.ADMIT, StageName.CLEAN, StageName.ENCODE, StageName.SPLIT)
"""They run once a night, and without torch."""
LINE = (
    *DATA_STAGES,
    StageName.PROFILE,
    StageName.SEARCH,
    StageName.TRAIN,
    StageName.EVALUATE,
    StageName.LEAKS,
    StageName.SELECT,
    StageName.COMPARE,
    StageName.TRACK,
    StageName.EXPORT,
    StageName.AUDIT,
    StageName.PUBLISH,
    StageName.REPORT,
)
"""The order of a night; `--until` takes these names."""

__all__ = ["DATA_STAGES", "LINE", *(str(name) for name in LINE)]
