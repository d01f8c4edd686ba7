"""Why a save is due: one class for each trigger. Importing this package registers all of them."""

from keras_savekit.policy.triggers import schedule as schedule  # noqa: I001 - in this order they are listed
from keras_savekit.policy.triggers import metric as metric
from keras_savekit.policy.triggers import external as external
from keras_savekit.policy.triggers import combine as combine
