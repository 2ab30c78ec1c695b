-- severity: error
-- reads: recommendations, recommendations_in, recommendations_by
-- Every list has an id of its own, and all rows of a list have the same one.
with firsts as (
    select user_id, list_id from recommendations where rank = 1
    union all
    select user_id, list_id from recommendations_in where rank = 1
    union all
    select user_id, list_id from recommendations_by where rank = 1
),

others as (  -- rows with another id than the first row of their list, or without such a row
    select rows.user_id, rows.list_id
    from recommendations as rows
    left join (select user_id, list_id from recommendations where rank = 1) as first using (user_id)
    where rows.list_id is distinct from first.list_id
    union all
    select rows.user_id, rows.list_id
    from recommendations_in as rows
    left join (select list, user_id, list_id from recommendations_in where rank = 1) as first using (list, user_id)
    where rows.list_id is distinct from first.list_id
    union all
    select rows.user_id, rows.list_id
    from recommendations_by as rows
    left join (select user_id, attribute, value, list_id from recommendations_by where rank = 1) as first
        using (user_id, attribute, value)
    where rows.list_id is distinct from first.list_id
)

select
    min(user_id) as user_id,
    min(list_id) as list_id,
    count(*) as lists
from firsts
group by list_id
having count(*) > 1

union all

select
    user_id,
    min(list_id) as list_id,
    count(distinct list_id) + 1 as lists
from others
group by user_id
