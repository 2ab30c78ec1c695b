-- sql/views/standings.sql for PostgreSQL: the same rows. Comments are those of the published view.
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
    round(valid::numeric, 4)::double precision as valid,
    round(test::numeric, 4)::double precision as test,
    round(ci_low::numeric, 4)::double precision as ci_low,
    round(ci_high::numeric, 4)::double precision as ci_high,
    compared.against_best
from measured
join newest using (run_id)
left join compared using (run_id, model, protocol, metric, cutoff)
order by protocol, metric, cutoff, measured.test desc, measured.model
