"""Why a checkpoint stays: one class for each rule of `keep`. Importing this registers all."""

from keras_savekit.policy.rules import kinds as kinds
