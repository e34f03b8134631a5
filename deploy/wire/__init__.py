"""What goes over the wire of the job service: messages generated from proto/jobs.proto."""
