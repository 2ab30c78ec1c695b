-- severity: error
-- reads: recommendations
-- Ranks of a user run from 1 without gaps or repeats.
select user_id, count(*) as n, min(rank) as lowest, max(rank) as highest
from recommendations
group by user_id
having min(rank) <> 1 or max(rank) <> count(*) or count(distinct rank) <> count(*)
