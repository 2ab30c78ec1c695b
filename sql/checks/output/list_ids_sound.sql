-- severity: error
-- reads: recommendations, recommendations_in, recommendations_by
-- Every list has an id of its own, and all rows of a list have the same one.
with lists as (
    select distinct user_id, '' as name, list_id from recommendations
    union all
    select distinct user_id, 'list ' || list, list_id from recommendations_in
    union all
    select distinct user_id, 'by ' || attribute || '=' || value, list_id from recommendations_by
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
group by user_id, name
having count(*) > 1
