-- reads: metrics, runs, comparisons
-- The models of the newest night at a glance: one row per model and metric, on valid, which decides, and on test.
-- champion: Whether this model made the published lists
-- figure: Metric with its cutoff; `among 99`: ranked among 99 sampled items, not comparable with the full ranking
-- valid: Value on valid
-- test: Value on test
-- ci_low: Lower end of the 95 % interval of test
-- ci_high: Upper end of the 95 % interval of test
-- against_best: On test, for the deciding metric: best (on valid), better, worse, or like (no significant difference)
create view standings as
with newest as (
    select run_id, champion from runs where outcome = 'published' order by run_id desc limit 1
),

compared as (
    select
        run_id, model, protocol, metric, cutoff,
        case when not is_real then 'like' when difference < 0 then 'worse' else 'better' end as against_best
    from comparisons
    where split = 'test'
    union
    select run_id, other, protocol, metric, cutoff, 'best' from comparisons where split = 'test'
),

measured as (
    select
        run_id, model, protocol, metric, cutoff,
        max(value) filter (where split = 'valid') as valid,
        max(value) filter (where split = 'test') as test,
        max(ci_low) filter (where split = 'test') as ci_low,
        max(ci_high) filter (where split = 'test') as ci_high
    from metrics
    where segment = 'all'
    group by run_id, model, protocol, metric, cutoff
)

select
    measured.model,
    measured.model = newest.champion as champion,
    metric || case when cutoff > 0 then '@' || cutoff else '' end
    || case when protocol = 'sampled_99' then ' among 99' else '' end as figure,
    -- four decimals, halves away from zero; PostgreSQL's round(double) rounds them to even
    trunc(valid * 10000 + 0.5 * sign(valid)) / 10000 as valid,
    trunc(test * 10000 + 0.5 * sign(test)) / 10000 as test,
    trunc(ci_low * 10000 + 0.5 * sign(ci_low)) / 10000 as ci_low,
    trunc(ci_high * 10000 + 0.5 * sign(ci_high)) / 10000 as ci_high,
    compared.against_best
from measured
join newest using (run_id)
left join compared using (run_id, model, protocol, metric, cutoff)
order by protocol, metric, cutoff, measured.test desc, measured.model
