-- severity: error
-- reads: recommendations
-- No user has an item twice in the list.
select user_id, item_id, count(*) as n
from recommendations
group by user_id, item_id
having count(*) > 1
