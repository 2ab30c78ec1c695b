-- reads: recommendations, items
-- How much of the catalog the lists show, and how evenly: one row.
-- items_shown: Items in at least one list
-- items_known: Items with at least one interaction
-- coverage: Share of items_known that is in at least one list
-- lists_with_the_most_shown_item: Lists that have the most recommended item
-- users: Users with a list
-- new_items_shown: Items without an interaction in at least one list: part of items_shown, not of coverage
create view coverage as
with shown as (
    select item_id, count(*) as n from recommendations group by item_id
),

with_rows as (
    select item_id from items where n_interactions > 0
),

lists as (
    select
        count(*) as items_shown,
        count(with_rows.item_id) as known_shown,
        max(shown.n) as lists_with_the_most_shown_item
    from shown left join with_rows on with_rows.item_id = shown.item_id
),

known as (
    select count(*) as items_known from with_rows
),

served as (
    select count(distinct user_id) as users from recommendations
)

select
    lists.items_shown,
    known.items_known,
    cast(lists.known_shown as double precision) / nullif(known.items_known, 0) as coverage,
    lists.lists_with_the_most_shown_item,
    served.users,
    lists.items_shown - lists.known_shown as new_items_shown
from lists, known, served
