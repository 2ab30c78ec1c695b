-- reads: similar_items, items
-- Similar items with both titles.
-- similar_title: Title of the similar item from the item catalog
create view similar_items_titled as
select
    similar_items.item_id,
    own.title,
    similar_items.rank,
    similar_items.similar_item_id,
    other.title as similar_title,
    similar_items.score,
    similar_items.model
from similar_items
left join items as own on own.item_id = similar_items.item_id
left join items as other on other.item_id = similar_items.similar_item_id
