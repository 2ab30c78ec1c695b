-- reads: item_attributes, recommendations
-- One row per value of an item attribute: how many items have it, and how much of the lists they take.
-- n_items: Items with the value
-- items_shown: Items with the value that are in at least one list
-- places: Places of all lists that these items take
-- share: Places, as a share of all places
create view attribute_exposure as
with places as (
    select item_id, count(*) as n from recommendations group by item_id
),

final as (
    select
        item_attributes.attribute,
        item_attributes.value,
        count(*) as n_items,
        count(places.item_id) as items_shown,
        coalesce(sum(places.n), 0)::bigint as places,
        coalesce(sum(places.n), 0) / nullif((select count(*) from recommendations), 0) as share
    from item_attributes
    left join places on places.item_id = item_attributes.item_id
    group by item_attributes.attribute, item_attributes.value
)

select * from final
