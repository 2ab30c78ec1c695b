-- severity: error
-- reads: recommendations, ranked_items, bounds
-- At least the share min_coverage, where it is set, of the listable items is in at least one list.
-- remedy: lower checks.min_coverage, or choose models that show more of the catalog
with final as (
    select
        (select count(distinct item_id) from recommendations semi join ranked_items using (item_id)) as items_shown,
        (select count(*) from ranked_items) as items,
        (select min_coverage from bounds) as min_coverage
)

select * from final where items_shown < min_coverage * items - 1e-6
