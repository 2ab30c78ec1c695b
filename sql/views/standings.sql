-- reads: metrics, runs, comparisons
-- The models of the newest night at a glance, a row a model and figure: on valid, which chooses, beside test and its 95 % interval.
-- against_best, of the figure that selects: the best on valid, like it (not told apart), better or worse on test.
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

figures as (
    select
        run_id, model, protocol, metric, cutoff,
        max(value) filter (where split = 'valid') as valid,
        max(value) filter (where split = 'test') as test,
        max(ci_low) filter (where split = 'test') as ci_low,
        max(ci_high) filter (where split = 'test') as ci_high
    from metrics
    where segment = 'all'
    group by all
)

select
    figures.model,
    figures.model = newest.champion as champion,
    metric || if(cutoff > 0, '@' || cutoff, '') || if(protocol = 'sampled_99', ' among 99', '') as figure,
    round(valid, 4) as valid,
    round(test, 4) as test,
    round(ci_low, 4) as ci_low,
    round(ci_high, 4) as ci_high,
    compared.against_best
from figures
join newest using (run_id)
left join compared using (run_id, model, protocol, metric, cutoff)
order by protocol, metric, cutoff, figures.test desc, figures.model
