"""Symptoms: what in an evaluation itself says that its attacks were too weak to be believed."""

from casemate.audit.symptoms.symptom import Symptom as Symptom
