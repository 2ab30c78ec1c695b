-- reads: predictions, items
-- Held-out ratings of test next to predicted ones, with titles: a sample, of every model that predicts ratings.
-- error: prediction - rating
create view predictions_titled as
select
    predictions.model,
    predictions.user_id,
    predictions.item_id,
    items.title,
    predictions.rating,
    predictions.prediction,
    predictions.prediction - predictions.rating as error
from predictions
left join items using (item_id)
