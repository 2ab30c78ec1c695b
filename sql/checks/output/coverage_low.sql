-- severity: warn
-- reads: recommendations, ranked_items
-- At least one item in a hundred of those that take part is in somebody's list.
with final as (
    select
        (select count(distinct item_id) from recommendations semi join ranked_items using (item_id)) as items_shown,
        (select count(*) from ranked_items) as items
)

select * from final where items_shown < 0.01 * items
