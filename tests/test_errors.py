from samdpo.errors import few


def test_of_a_long_list_a_sentence_names_a_few_and_counts_the_rest():
    assert few(["a", "b"]) == "a, b" and few(range(5)) == "0, 1, 2, 3, 4" and few([]) == ""
    assert few(range(7)) == "0, 1, 2, 3, 4 and 2 more" and few("abc", 2) == "a, b and 1 more"
