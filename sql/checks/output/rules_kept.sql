-- severity: error
-- reads: recommendations, similar_items, ranked_items
-- Nothing is recommended, or called similar, that takes no part or that a rule of [export] holds back.
with listed as (
    select item_id from recommendations
    union
    select similar_item_id from similar_items
)

select listed.item_id from listed anti join ranked_items using (item_id)
