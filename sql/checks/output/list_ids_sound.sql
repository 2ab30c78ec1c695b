-- severity: error
-- reads: recommendations
-- Every list has an id of its own, and all rows of a list have the same one.
with lists as (
    select distinct user_id, list_id from recommendations
)

select
    min(user_id) as user_id,
    min(list_id) as list_id,
    count(*) as lists
from lists
group by list_id
having count(*) > 1

union all

select
    user_id,
    min(list_id) as list_id,
    count(*) as lists
from lists
group by user_id
having count(*) > 1
