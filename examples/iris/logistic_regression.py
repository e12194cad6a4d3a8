"""Fit a logistic regression to the one CSV file in datasets/.

The last column is the class, the others are measurements; the first line is a
heading. The fitted model goes to results/model.joblib and its accuracy on a
third of the rows, which it has not seen, to results/metrics.json.
"""

import json
import pathlib

import joblib
import pandas
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

(dataset,) = pathlib.Path("datasets").iterdir()
table = pandas.read_csv(dataset, header=None, skiprows=1)
measurements, classes = table.iloc[:, :-1], table.iloc[:, -1]
train_x, test_x, train_y, test_y = train_test_split(
    measurements, classes, test_size=1 / 3, random_state=42, stratify=classes
)

model = LogisticRegression(max_iter=1000).fit(train_x, train_y)
accuracy = model.score(test_x, test_y)

joblib.dump(model, "results/model.joblib")
pathlib.Path("results/metrics.json").write_text(
    json.dumps({"accuracy": accuracy, "train_rows": len(train_x), "test_rows": len(test_x)}) + "\n"
)
print(f"accuracy {accuracy:.4f} on {len(test_x)} of {len(table)} rows")
