"""Tell how patients of two hospitals fare, by treatment and stage.

One hospital treats, and has datasets/treatments.csv: patient, treatment, stage.
Another one follows up, and has datasets/outcomes.csv: patient, recovered, days.
Both call a patient by the same pseudonym. The tables are joined on it, and of each
treatment and stage results/outcomes.json tells how many patients there were, how
many recovered, and the mean of days. Nothing else of the tables is told:

* A group of fewer patients than --min-group is withheld, and so is one in which
  all recovered or none did, since that would tell of each of them.
* There is no total, from which what is withheld could be had by taking the other
  groups away, and neither is the number of patients that both hospitals know.
* What is printed, and each error, names a file and a line at most. Consumers of
  the result get that, too.
"""

import argparse
import json
import pathlib
import sys

import pandas

# A smaller one tells of single patients.
LEAST_GROUP = 5

# What the columns of each table must look like, as a whole.
TREATMENTS = {"patient": "[0-9a-f]{32}", "treatment": "[a-z][a-z ]{0,30}", "stage": "I|II|III|IV"}
OUTCOMES = {"patient": "[0-9a-f]{32}", "recovered": "[01]", "days": "[0-9]{1,4}"}


class Refusal(Exception):
    """Says what is wrong with the input, without any value of it."""


def read(name, columns):
    """Return a table as text, checked cell by cell."""
    try:
        table = pandas.read_csv(pathlib.Path("datasets", name), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except FileNotFoundError:
        raise Refusal(f"datasets/{name} is missing; the manifest must name it") from None
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError):
        raise Refusal(f"{name} is not a CSV table in UTF-8 with as many cells in each row as in the heading") from None
    if list(table.columns) != list(columns) or not isinstance(table.index, pandas.RangeIndex):
        raise Refusal(f"{name} has other columns than {','.join(columns)}")
    for column, pattern in columns.items():
        wrong = table.index[~table[column].str.fullmatch(pattern, na=False)]
        if len(wrong):
            raise Refusal(f"{name}, line {wrong[0] + 2}: {column} is not of the form {pattern}")
    again = table.index[table["patient"].duplicated()]
    if len(again):
        raise Refusal(f"{name}, line {again[0] + 2}: a patient that an earlier line has, too; give one line for each")
    return table


def tell(treatments, outcomes, min_group):
    """Return what results/outcomes.json holds."""
    both = treatments.merge(outcomes, on="patient", validate="one_to_one")
    both = both.astype({"recovered": int, "days": int})
    groups = (
        both.groupby(["treatment", "stage"])
        .agg(patients=("patient", "size"), recovered=("recovered", "sum"), mean_days=("days", "mean"))
        .reset_index()
    )
    large = groups["patients"] >= min_group
    mixed = (groups["recovered"] > 0) & (groups["recovered"] < groups["patients"])
    told = groups[large & mixed]
    if told.empty:
        raise Refusal(
            f"no group of treatment and stage has {min_group} patients that both hospitals know, "
            "some of whom recovered and some not: nothing can be told"
        )
    told = told.assign(mean_days=told["mean_days"].round(1))
    return {
        "min_group": min_group,
        "groups": json.loads(told.to_json(orient="records")),
        "withheld_groups": len(groups) - len(told),
    }


def main(arguments):
    parser = argparse.ArgumentParser(prog="outcomes", allow_abbrev=False)
    parser.add_argument("--min-group", type=int, default=10, help="the least patients that a group is told of")
    min_group = parser.parse_args(arguments).min_group
    if min_group < LEAST_GROUP:
        raise Refusal(f"--min-group {min_group}: expected {LEAST_GROUP} or more; a smaller group tells of single patients")
    told = tell(read("treatments.csv", TREATMENTS), read("outcomes.csv", OUTCOMES), min_group)
    pathlib.Path("results/outcomes.json").write_text(json.dumps(told, indent=2) + "\n")
    print(f"{len(told['groups'])} groups of treatment and stage are told of, {told['withheld_groups']} are withheld")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refusal as refusal:
        sys.exit(f"outcomes: {refusal}")
    except Exception as failure:
        # A traceback, or what the library says, may have a value in it.
        sys.exit(f"outcomes: the program failed with {type(failure).__name__}; more can't be said without naming values")
