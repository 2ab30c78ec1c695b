-- reads: metrics, runs, realised
-- The champion's metrics on test by night, oldest first: does quality rise or fall?
-- change: value minus the value of the published night before; null for the first one
-- realised_1: the same metric of the night's lists on what users did in the day after; null: not yet known
-- realised_7: the same in the 7 days after
-- realised_28: the same in the 28 days after
-- popularity_1: popularity of that night on the same interactions as realised_1
-- popularity_7: the same for realised_7
-- popularity_28: the same for realised_28
-- holdback_1: lists of the holdback, as realised_1; null without export.holdback
-- holdback_7: the same for realised_7
-- holdback_28: the same for realised_28
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
    ) as change,
    later.realised_1,
    later.realised_7,
    later.realised_28,
    later.popularity_1,
    later.popularity_7,
    later.popularity_28,
    later.holdback_1,
    later.holdback_7,
    later.holdback_28
from runs
join metrics on metrics.run_id = runs.run_id and metrics.model = runs.champion
left join (
    select
        run_id,
        metric,
        cutoff,
        max(value) filter (
            where horizon_days = 1 and segment = 'all' and list_source = 'published'
        ) as realised_1,
        max(value) filter (
            where horizon_days = 7 and segment = 'all' and list_source = 'published'
        ) as realised_7,
        max(value) filter (
            where horizon_days = 28 and segment = 'all' and list_source = 'published'
        ) as realised_28,
        max(value) filter (
            where horizon_days = 1 and segment = 'all' and list_source = 'popularity'
        ) as popularity_1,
        max(value) filter (
            where horizon_days = 7 and segment = 'all' and list_source = 'popularity'
        ) as popularity_7,
        max(value) filter (
            where horizon_days = 28 and segment = 'all' and list_source = 'popularity'
        ) as popularity_28,
        max(value) filter (
            where horizon_days = 1 and segment = 'holdback' and list_source = 'published'
        ) as holdback_1,
        max(value) filter (
            where horizon_days = 7 and segment = 'holdback' and list_source = 'published'
        ) as holdback_7,
        max(value) filter (
            where horizon_days = 28 and segment = 'holdback' and list_source = 'published'
        ) as holdback_28
    from realised
    group by run_id, metric, cutoff
) as later
    on later.run_id = runs.run_id and later.metric = metrics.metric and later.cutoff = metrics.cutoff
    and metrics.protocol = 'full'
where runs.outcome = 'published' and metrics.split = 'test' and metrics.segment = 'all'
order by runs.run_id, metrics.protocol, metrics.metric, metrics.cutoff
