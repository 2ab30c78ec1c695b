-- reads: metrics, runs, comparisons
-- Quality of the models of the newest night over all users. Models are chosen on valid and reported once on test.
-- For the deciding metric also the paired difference from the best model on valid, and whether it is significant.
-- champion: Whether this model made the published lists
-- compared_with: The best model on valid; null for that model itself and for other metrics
create view leaderboard as
with newest as (
    select run_id, champion from runs where outcome = 'published' order by run_id desc limit 1
)

select
    metrics.model,
    metrics.model = newest.champion as champion,
    metrics.split,
    metrics.protocol,
    metrics.metric,
    metrics.cutoff,
    metrics.value,
    metrics.ci_low,
    metrics.ci_high,
    metrics.n,
    comparisons.other as compared_with,
    comparisons.difference,
    comparisons.is_real
from metrics
join newest using (run_id)
left join comparisons using (run_id, split, protocol, metric, cutoff, model)
where metrics.segment = 'all'
order by
    metrics.split, metrics.protocol, metrics.metric, metrics.cutoff, metrics.value desc, metrics.model
