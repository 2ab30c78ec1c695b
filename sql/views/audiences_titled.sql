-- reads: audiences, items
-- Audiences with the titles of their items.
create view audiences_titled as
select
    audiences.item_id,
    items.title,
    audiences.rank,
    audiences.user_id,
    audiences.score
from audiences
left join items using (item_id)
