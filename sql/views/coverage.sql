-- reads: recommendations, items
-- How much of the catalog the lists show, and how evenly: one row.
-- items_shown: Items in at least one list
-- items_known: Items with at least one interaction
-- coverage: items_shown / items_known
-- lists_with_the_most_shown_item: Lists that have the most recommended item
-- users: Users with a list
create view coverage as
with shown as (
    select item_id, count(*) as n from recommendations group by item_id
),

lists as (
    select count(*) as items_shown, max(n) as lists_with_the_most_shown_item from shown
),

known as (
    select count(*) as items_known from items where n_interactions > 0
),

served as (
    select count(distinct user_id) as users from recommendations
)

select
    lists.items_shown,
    known.items_known,
    cast(lists.items_shown as double precision) / nullif(known.items_known, 0) as coverage,
    lists.lists_with_the_most_shown_item,
    served.users
from lists, known, served
