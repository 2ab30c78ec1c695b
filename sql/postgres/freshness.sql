-- sql/views/freshness.sql for PostgreSQL: the same rows. Comments are those of the published view.
create view freshness as
select
    runs.run_id,
    runs.champion,
    runs.finished_at,
    (select max(generated_at) from recommendations) as generated_at,
    interactions_summary.last_timestamp as newest_interaction,
    extract(epoch from now() at time zone 'UTC' - runs.finished_at)::double precision / 3600 as age_hours
from runs, interactions_summary
where runs.outcome = 'published'
order by runs.run_id desc
limit 1
