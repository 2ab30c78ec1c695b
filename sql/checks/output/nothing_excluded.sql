-- severity: error
-- reads: recommendations, similar_items, popular_items, excluded_items
-- No published list has an item that exclude_where or only_where of [export] excludes by the published catalog.
with listed as (
    select item_id from recommendations
    union
    select similar_item_id from similar_items
    union
    select item_id from popular_items
)

select excluded_items.item_id, excluded_items.rule from excluded_items semi join listed using (item_id)
