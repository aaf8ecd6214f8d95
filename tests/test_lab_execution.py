"""The import path that stands in the configurations of classes made before."""


def test_the_path_in_configurations_of_classes_made_before_still_works():
    from nnopt_lib.course.labs import execute
    from nnopt_lib.lab_execution import GUARDED, RESTORED

    assert GUARDED is execute.GUARDED
    assert RESTORED is execute.RESTORED
