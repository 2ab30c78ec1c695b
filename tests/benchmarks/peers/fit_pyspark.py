"""Spark's ALS for implicit feedback, on one machine; the time of the JVM counts."""

import exchange
import numpy as np
import pyspark
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession


def main() -> None:
    """Fit, list, report."""
    task = exchange.read()
    spark = SparkSession.builder.master(f"local[{task.threads}]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    task.child = spark.sparkContext._gateway.proc.pid
    rows = spark.read.csv(str(task.folder / "rows.csv"), header=True, inferSchema=True).selectExpr(
        "user", "item", "1.0 as rating"
    )
    rows = rows.repartition(task.threads).cache()
    rows.count()
    als = ALS(rank=task.dim, maxIter=12, implicitPrefs=True, alpha=4.33, regParam=0.1, userCol="user", itemCol="item",
              ratingCol="rating", numUserBlocks=task.threads, numItemBlocks=task.threads, seed=1)  # fmt: skip
    with task.timed("fit"):
        model = als.fit(rows)
        tables = []
        for factors, n in ((model.userFactors, task.n_users), (model.itemFactors, task.n_items)):
            table = np.zeros((n, task.dim), dtype=np.float32)
            for row in factors.collect():
                table[row["id"]] = row["features"]
            tables.append(table)
    with task.timed("lists"):
        lists = task.best(lambda users: tables[0][users] @ tables[1].T)
    task.done(lists, pyspark.__version__, 12)
    spark.stop()


main()
