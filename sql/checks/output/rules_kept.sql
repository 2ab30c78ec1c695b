-- severity: error
-- reads: recommendations, similar_items, fallback_items, ranked_items
-- No recommended, similar or fallback item was filtered out or is excluded by a rule of [export]; of new items that were drawn, see
-- explore_sound.
with listed as (
    select item_id from recommendations where source <> 'explore'
    union
    select similar_item_id from similar_items
    union
    select item_id from fallback_items
)

select listed.item_id from listed anti join ranked_items using (item_id)
