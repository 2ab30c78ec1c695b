-- severity: error
-- reads: recommendations, similar_items, source_rows
-- Every recommended or similar item occurs in a valid source row; of new items that were drawn, see explore_sound.
with listed as (
    select item_id from recommendations where source <> 'explore'
    union
    select similar_item_id from similar_items
    union
    select item_id from similar_items
)
select listed.item_id from listed anti join source_rows using (item_id)
