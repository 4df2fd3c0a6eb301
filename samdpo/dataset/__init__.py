"""Raw datasets: dataset.json, cases, readers and writers, integrity, phantoms."""
