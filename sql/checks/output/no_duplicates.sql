-- severity: error
-- reads: recommendations
-- No user gets an item twice.
select user_id, item_id, count(*) as n
from recommendations
group by user_id, item_id
having count(*) > 1
