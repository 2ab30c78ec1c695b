-- severity: error
-- reads: recommendations, recommendations_by, similar_items, popular_items, trending_items, fallback_items, excluded_items
-- No published list has an item that exclude_where or only_where of [export] excludes by the published catalog.
with listed as (
    select item_id from recommendations
    union
    select similar_item_id from similar_items
    union
    select item_id from popular_items
    union
    select item_id from recommendations_by
    union
    select item_id from trending_items
    union
    select item_id from fallback_items
)

select excluded_items.item_id, excluded_items.rule from excluded_items semi join listed using (item_id)
