-- reads: runs, interactions_summary, recommendations
-- Which night this file is of, and how old its data and lists are. A connection held open keeps its night.
create view freshness as
select
    runs.run_id,
    runs.champion,
    runs.finished_at,
    (select max(generated_at) from recommendations) as generated_at,
    interactions_summary.last_timestamp as newest_interaction,
    epoch(cast(now() at time zone 'UTC' as timestamp) - runs.finished_at) / 3600 as age_hours
from runs, interactions_summary
where runs.outcome = 'published'
order by runs.run_id desc
limit 1
