-- severity: warn
-- reads: recommendations, ranked_items
-- At least 1 % of the listable items is in at least one list.
with final as (
    select
        (select count(distinct item_id) from recommendations semi join ranked_items using (item_id)) as items_shown,
        (select count(*) from ranked_items) as items
)

select * from final where items_shown < 0.01 * items
