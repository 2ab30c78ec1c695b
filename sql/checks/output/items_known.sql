-- severity: error
-- reads: recommendations, similar_items, source_rows, placed_items
-- Every recommended or similar item occurs in a valid source row or, with [attributes], has an attribute that models read; of
-- new items that were drawn, see explore_sound.
with listed as (
    select item_id from recommendations where source <> 'explore'
    union
    select similar_item_id from similar_items
    union
    select item_id from similar_items
)
select listed.item_id from listed anti join source_rows using (item_id) anti join placed_items using (item_id)
