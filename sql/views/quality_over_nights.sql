-- reads: metrics, runs
-- The champion's metrics on test by night, oldest first: does quality rise or fall?
-- change: value minus the value of the published night before; null for the first one
create view quality_over_nights as
select
    runs.run_id,
    runs.started_at,
    runs.champion,
    metrics.protocol,
    metrics.metric,
    metrics.cutoff,
    metrics.value,
    metrics.ci_low,
    metrics.ci_high,
    metrics.n,
    metrics.value - lag(metrics.value) over (
        partition by metrics.protocol, metrics.metric, metrics.cutoff order by runs.run_id
    ) as change
from runs
join metrics on metrics.run_id = runs.run_id and metrics.model = runs.champion
where runs.outcome = 'published' and metrics.split = 'test' and metrics.segment = 'all'
order by runs.run_id, metrics.protocol, metrics.metric, metrics.cutoff
