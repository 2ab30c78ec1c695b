-- reads: runs, interactions_summary, recommendations
-- Which night published this file, and how old its data and lists are: one row. An open connection keeps its night.
-- generated_at: When the night made its lists, UTC
-- newest_interaction: Last interaction in the source, UTC; null where the source has no times
-- age_hours: Hours since the night finished
create view freshness as
select
    runs.run_id,
    runs.champion,
    runs.finished_at,
    (select max(generated_at) from recommendations) as generated_at,
    interactions_summary.last_timestamp as newest_interaction,
    cast(extract(epoch from cast(now() at time zone 'UTC' as timestamp) - runs.finished_at) as double precision)
    / 3600 as age_hours
from runs, interactions_summary
where runs.outcome = 'published'
order by runs.run_id desc
limit 1
