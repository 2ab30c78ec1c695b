-- reads: realised, runs
-- Published lists on what users did in the days after them, and popularity of that night on the same, oldest first
-- published: mean of the published lists
-- popularity: mean of popularity lists of the same night
-- difference: published - popularity, paired by user
-- ci_low: lower end of the 95 % interval of the difference
-- ci_high: upper end of the 95 % interval of the difference
-- holdback: mean of the lists of the holdback; null without export.holdback
-- model_minus_holdback: mean of the champion's lists minus that of the holdback's, which other users have
-- model_minus_holdback_low: lower end of its 95 % interval
-- model_minus_holdback_high: upper end of its 95 % interval
create view realised_over_nights as
select
    difference.run_id,
    runs.champion,
    difference.horizon_days,
    difference.metric,
    difference.cutoff,
    published.value as published,
    popularity.value as popularity,
    difference.value as difference,
    difference.ci_low,
    difference.ci_high,
    difference.n,
    holdback.value as holdback,
    contrast.value as model_minus_holdback,
    contrast.ci_low as model_minus_holdback_low,
    contrast.ci_high as model_minus_holdback_high
from realised as difference
join realised as published
    on published.run_id = difference.run_id and published.horizon_days = difference.horizon_days
    and published.metric = difference.metric and published.cutoff = difference.cutoff
    and published.segment = 'all' and published.list_source = 'published'
join realised as popularity
    on popularity.run_id = difference.run_id and popularity.horizon_days = difference.horizon_days
    and popularity.metric = difference.metric and popularity.cutoff = difference.cutoff
    and popularity.segment = 'all' and popularity.list_source = 'popularity'
left join realised as holdback
    on holdback.run_id = difference.run_id and holdback.horizon_days = difference.horizon_days
    and holdback.metric = difference.metric and holdback.cutoff = difference.cutoff
    and holdback.segment = 'holdback' and holdback.list_source = 'published'
left join realised as contrast
    on contrast.run_id = difference.run_id and contrast.horizon_days = difference.horizon_days
    and contrast.metric = difference.metric and contrast.cutoff = difference.cutoff
    and contrast.segment = 'all' and contrast.list_source = 'model - holdback'
left join runs on runs.run_id = difference.run_id
where difference.segment = 'all' and difference.list_source = 'published - popularity'
order by difference.run_id, difference.horizon_days, difference.metric, difference.cutoff
