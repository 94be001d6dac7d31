"""What supernets compute together: operations that share their input, weighed and added up."""
